"""The survey: every architecture of the installed model libraries, built small, pruned and exported."""
