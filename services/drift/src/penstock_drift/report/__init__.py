"""Reports of confirmed drift, made by processes of their own: the loop never waits for them."""
