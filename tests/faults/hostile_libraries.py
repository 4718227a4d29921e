"""What the processes of hostile inputs are born with: libraries, and digests of the code."""

import pandas
import timm

from flows import cli
from tasks import keys, prepare_data, train_experts
from tasks.core.data import preparation
from tasks.settings import params, steps
from tests.workspace import ROOT

__all__ = ["cli", "pandas", "preparation", "prepare_data", "timm", "train_experts"]

# Digests of the code are remembered, and plugins imported
keys.of_prepared(steps.preparation(params.load(path=ROOT / "params.yaml")))
