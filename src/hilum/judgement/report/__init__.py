"""What an audit says of one encoder's answers: drift between splits, quality, fairness."""
