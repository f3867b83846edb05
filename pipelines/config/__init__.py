"""Configuration: YAML and key=value overrides, validated against models, with one line per problem."""
