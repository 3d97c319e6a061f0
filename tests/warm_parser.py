"""Fill the caches of Hydra's parser in the process that runs are forked from."""

from segkit.config.compose import compose_settings

WORDS = ["data=shapes", "model/auxiliary=none", "schedule.lr=0.05", "checkpoint.minutes=null", "run_name=a"]
compose_settings("train", WORDS)
