"""Rules that check what an image shows: object detectors and the GenEval verifier."""
