"""Meaning of a model's outputs, and how two outputs of a kind are compared: one place for all who ask.

kinds.py      the meaning of each output: said, or certain from the graph, the loss or the targets
heard.py      a loss is listened to: which functions of torch it gives an output to
yardstick.py  distance and agreement of outputs with the original's, each by its meaning
losses.py     the loss of a task that brings none
"""
