"""An app with a column of each kind that only PostGIS and PostgreSQL have."""
