"""The report of one profile: tables, figures, galleries and one self-contained page. Read
`build.py` first.
"""
