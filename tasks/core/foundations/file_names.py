"""Names of files inside artifacts and the report that one module writes and others read.

They lie in core so that cache keys cover them: a new name makes the artifact again.
"""

from __future__ import annotations

# Of a prepared dataset
IMAGES, NAMES, CAPTIONS = "images.safetensors", "images.parquet", "captions.parquet"
# Of a distilled set, beside those of `training/pair_files.py`
HISTORY, INITIAL = "history.parquet", "initial.safetensors"
# Of a student's scores, and of a set's gallery
SCORE, CURVE = "score.json", "curve.parquet"
GALLERY, SHEET = "gallery.json", "gallery.png"
# Of the report
PAGE, METRICS = "index.html", "metrics.json"
