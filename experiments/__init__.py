"""The claims of *Epistemic Traps* (arXiv 2602.17676): each a script, a picture and a verdict."""
