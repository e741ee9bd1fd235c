"""Many runs as one: every method on every concept with every seed, judged and attacked."""
