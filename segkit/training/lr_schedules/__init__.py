"""Learning-rate schedules, one per file: ``build(total, ...)`` returns iteration -> factor."""
