"""``index.html``: one self-contained page, which asks nothing of any network and shows every string as text."""
