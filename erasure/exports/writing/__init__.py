"""What the forms write with: files, weights in a dtype, names without a user's paths."""
