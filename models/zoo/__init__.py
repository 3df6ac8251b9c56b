"""Problems that are there already, each with its source."""
