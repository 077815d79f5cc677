"""Images in messages: from a URL that a stranger wrote to an array of pixels. Knows no model and no prompt."""
