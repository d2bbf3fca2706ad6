"""Rules and identities to the policy of each subject, incrementally."""
