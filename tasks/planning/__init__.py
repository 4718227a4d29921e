"""What a run of one profile will take, told before it. Read `plan.py` first."""
