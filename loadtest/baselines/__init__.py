"""What Tidebook is measured against: each one complete, honest and competently tuned."""
