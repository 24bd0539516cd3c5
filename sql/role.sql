-- The role that rowcast runs as. It may log in and stream changes, nothing
-- else: it can read no table, since the stream needs no SELECT. What it sees of
-- a change is what the publication sends. Where rules look rows up,
-- `rowcast setup` grants it SELECT on the columns that they name.
--
-- Run it once, as a role that may create roles:
--
--   psql --set=password="$(openssl rand -hex 24)" --file=role.sql shop
--
-- and let the owner of the tables make the publication, which this role may not:
--
--   rowcast setup --url postgres://OWNER@HOST/shop
--
-- Another name than rowcast: --set=role=NAME. Without a password (peer or
-- certificate): leave --set=password away.
--
-- For capture = "triggers" add --set=triggers=1: the role may then log in, and not
-- even stream. It owns the outbox, which `rowcast setup --url` has it make in schema
-- rowcast; the owner of the tables makes the triggers.
--
-- For [run] takeover = true add --set=takeover=1: it grants pg_read_all_stats,
-- by which one instance sees when another was last heard.
--
-- Hosted servers:
--   Amazon RDS, Aurora   --set=rds=1, which grants rds_replication instead of
--                        REPLICATION; rds.logical_replication = 1 in the
--                        parameter group
--   Azure                wal_level = logical under "Server parameters"; the
--                        administrator may give REPLICATION as below
--   Google Cloud SQL     the flag cloudsql.logical_decoding = on; REPLICATION as below
--   Neon                 logical replication on in the project's settings; make
--                        the role in SQL, and connect to the host without -pooler
--
-- pg_hba.conf must let it in to the database itself. The word "replication" in
-- the database column is for physical standbys, and does not cover rowcast:
--
--   hostssl  shop  rowcast  10.0.0.0/8  scram-sha-256

\set ON_ERROR_STOP on
\if :{?role}
\else
  \set role rowcast
\endif

-- Made once; run again, it only sets what follows.
SELECT format('CREATE ROLE %I', :'role')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec

\if :{?triggers}
  ALTER ROLE :"role" LOGIN;
\elif :{?rds}
  ALTER ROLE :"role" LOGIN;
  GRANT rds_replication TO :"role";
\else
  ALTER ROLE :"role" LOGIN REPLICATION;
\endif

\if :{?password}
  ALTER ROLE :"role" PASSWORD :'password';
\endif

\if :{?takeover}
  GRANT pg_read_all_stats TO :"role";
\endif

-- PUBLIC has CONNECT unless somebody revoked it.
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'role') \gexec
