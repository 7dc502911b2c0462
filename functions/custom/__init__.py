"""The custom domain: what operators declare in `custom_actions` becomes functions like ours."""
