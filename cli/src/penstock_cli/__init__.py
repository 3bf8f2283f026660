"""The penstock command: thin verbs over the libraries."""
