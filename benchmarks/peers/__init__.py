"""What the serving benchmarks measure us against: the same model behind other servers."""
