"""One model and one benchmark to rows of scores: targets, ceilings, draws, files."""
