"""Store and read the manifest. Before it is stored again, find out whether the project has changed."""
