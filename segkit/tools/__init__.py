"""Commands beside training and prediction: ``python -m segkit.tools.NAME``. Nothing else imports them."""
