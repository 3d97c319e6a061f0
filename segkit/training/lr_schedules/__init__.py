"""Learning-rate policies, one a file: ``build(total, ...)`` gives iteration -> factor."""
