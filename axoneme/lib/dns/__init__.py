"""DNS as a node's proxy needs it: messages (`wire`), names and patterns (`index`), learned sets (`sets`)."""
