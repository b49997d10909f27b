"""What every method owes, as checks that run on small models; see ``suite``."""
