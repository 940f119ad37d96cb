"""Export models to other runtimes. Each route is one file; every artefact is run and compared before it is kept."""
