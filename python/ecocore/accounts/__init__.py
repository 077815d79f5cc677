"""Who may ask: accounts and their keys. Takes a key, gives its owner; knows no HTTP. All SQL lives here."""
