"""The benchmark: suite -> cells -> stages -> records. The only place where computation meets the disk."""
