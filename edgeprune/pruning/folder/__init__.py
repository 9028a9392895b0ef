"""Pretrained folders: a cut model is written as one again, in shapes that its config can say."""
