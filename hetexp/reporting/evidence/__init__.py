"""The ledger: every claim of the paper with its statistic, interval and verdict, from results on disk."""
