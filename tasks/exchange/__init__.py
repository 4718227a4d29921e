"""In and out: exports for people who have never heard of this program, imports of their sets, and
scores of their embeddings.
"""
