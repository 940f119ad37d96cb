"""Models written for other runtimes: one route, one file; each artefact is run and compared before it is trusted."""
