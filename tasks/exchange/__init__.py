"""In and out: a stored set for people who have never heard of this program, and their embeddings
under this program's score.
"""
