"""A weight file that is not there, has another format or is damaged is named, by every image
encoder in the same words.
"""

import pytest

from tasks.core.foundations import plugins

NETWORKS = {"timm": {"name": "test_nfnet", "kwargs": {}}, "torchvision": {"name": "squeezenet1_1"}}
WHERE = r"change model\.options"
ALLOWED = r"; allowed are 'hub', 'random' or .*\.safetensors file; change model\.options\.weights"


@pytest.fixture(params=NETWORKS)
def build(request):
    """Return the network's name and a function that builds it from a weight file."""
    plugin, options = plugins.load("image_encoders", request.param), NETWORKS[request.param]
    return options["name"], lambda weights: plugin.build(
        plugin.Config(**options, weights=str(weights), mean=None, std=None), seed=0
    )


def test_a_weight_file_that_is_not_there_is_named(build):
    with pytest.raises(
        FileNotFoundError, match="weights 'nowhere.safetensors' are not there" + ALLOWED
    ):
        build[1]("nowhere.safetensors")


def test_a_weight_file_of_another_format_is_named(build, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"weights '.*w\.pth' have another format" + ALLOWED):
        build[1](tmp_path / "w.pth")


def test_a_damaged_weight_file_is_named(build, tmp_path):
    (tmp_path / "damaged.safetensors").write_bytes(b"not a tensor file " * 9)
    with pytest.raises(
        ValueError, match=rf"damaged\.safetensors' do not fit {build[0]}: .*" + WHERE
    ):
        build[1](tmp_path / "damaged.safetensors")
