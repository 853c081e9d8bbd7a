"""RAHF: representation alignment from human feedback (arXiv 2312.15997): preference taught, read and aligned with."""
