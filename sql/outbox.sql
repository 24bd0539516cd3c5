-- Where triggers write what changed, for capture = "triggers". rowcast reads it,
-- delivers, and only then deletes what it read.
--
-- `rowcast setup` installs this, as the role that rowcast runs as, and `rowcast
-- teardown` removes it. The triggers themselves are made for each table: they write
-- the columns that rules name, and nothing else.

-- One number for each row of the outbox. CACHE 1, since the order within a
-- transaction, and between transactions that change the same row, is read off it.
CREATE SEQUENCE IF NOT EXISTS rowcast.outbox_id MINVALUE 0 CACHE 1;

-- What triggers may do, set by the reader and seen at once by all, committed or not:
-- twice the highest outbox_id that may be written, and one more while the reader
-- sleeps and wants to be woken.
CREATE SEQUENCE IF NOT EXISTS rowcast.gate MINVALUE 0 CACHE 1;

-- Stepped where a change could not be written. A sequence, because that survives the
-- rollback to before the failure.
CREATE SEQUENCE IF NOT EXISTS rowcast.failures MINVALUE 0 CACHE 1;

-- Stepped where a change was not written, because the outbox was full.
CREATE SEQUENCE IF NOT EXISTS rowcast.refusals MINVALUE 0 CACHE 1;

-- A sequence that was never stepped does not tell its first step from none.
SELECT setval('rowcast.outbox_id', 0) FROM rowcast.outbox_id WHERE NOT is_called;
SELECT setval('rowcast.failures', 0) FROM rowcast.failures WHERE NOT is_called;
SELECT setval('rowcast.refusals', 0) FROM rowcast.refusals WHERE NOT is_called;

-- What the rows of the outbox consist of. Never altered: other columns, another shape.
CREATE TABLE IF NOT EXISTS rowcast.shapes (
    id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    -- The table, of a partition the root.
    relation oid NOT NULL,
    -- Its columns in the order of the outbox's arrays.
    columns text[] NOT NULL
);

CREATE TABLE IF NOT EXISTS rowcast.outbox (
    -- Of the whole transaction, not of a savepoint: what the reader sees in one
    -- snapshot and not in the one before is what it has not read yet.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id bigint NOT NULL DEFAULT nextval('rowcast.outbox_id'),
    at timestamptz NOT NULL DEFAULT statement_timestamp(),
    -- NULL for what is of no table.
    shape integer,
    -- i(nsert), u(pdate), d(elete), t(runcate), c(ontext), b(roadcast)
    op "char" NOT NULL,
    -- Values as Postgres prints them. Of a context or broadcast, new is one JSON text.
    old text[],
    new text[],
    PRIMARY KEY (xid, id)
);

-- Nothing is compressed: what a row takes when it is read is known before, and the
-- writer is spared the work.
ALTER TABLE rowcast.outbox
    ALTER COLUMN old SET STORAGE EXTERNAL, ALTER COLUMN new SET STORAGE EXTERNAL;

-- Rows live for a second or so: dead ones are to be removed soon, however many there
-- were before.
ALTER TABLE rowcast.outbox SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_analyze_threshold = 2000000000,
    autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 10000,
    -- To give space back to the disk takes a lock that writers would wait for.
    vacuum_truncate = off, toast.vacuum_truncate = off
);

-- Whoever empties it takes away what is not delivered yet.
CREATE OR REPLACE FUNCTION rowcast.outbox_truncated() RETURNS trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $rowcast$
BEGIN
    PERFORM nextval('rowcast.failures');
    RETURN NULL;
END
$rowcast$;
REVOKE ALL ON FUNCTION rowcast.outbox_truncated() FROM PUBLIC;
CREATE OR REPLACE TRIGGER rowcast_truncate AFTER TRUNCATE ON rowcast.outbox
    FOR EACH STATEMENT EXECUTE FUNCTION rowcast.outbox_truncated();
ALTER TABLE rowcast.outbox ENABLE ALWAYS TRIGGER rowcast_truncate;

-- How far the outbox is delivered. One row.
CREATE TABLE IF NOT EXISTS rowcast.reader (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Numbers readers, so that positions rise from one to the next.
    session bigint NOT NULL DEFAULT 0,
    -- Everything at or below it is delivered, and deleted with the same commit.
    position bigint NOT NULL DEFAULT 0,
    -- The values of rowcast.failures and rowcast.refusals that were told by resyncs.
    failures bigint NOT NULL DEFAULT 0,
    refusals bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

INSERT INTO rowcast.reader DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Writes what the transaction says of itself, unless its last row that did so says
-- the same. A savepoint that is rolled back takes that row away, and the setting
-- that remembers it.
CREATE OR REPLACE FUNCTION rowcast.outbox_context() RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $rowcast$
DECLARE
    context text := current_setting('rowcast.context', true);
BEGIN
    IF context <> '' AND context IS DISTINCT FROM current_setting('rowcast.told', true)
        AND pg_sequence_last_value('rowcast.outbox_id')
            < pg_sequence_last_value('rowcast.gate') >> 1
    THEN
        -- Of what is too long, enough to say so.
        INSERT INTO rowcast.outbox (op, new) VALUES ('c', ARRAY[left(context, 4097)]);
        PERFORM set_config('rowcast.told', context, true);
    END IF;
END
$rowcast$;
REVOKE ALL ON FUNCTION rowcast.outbox_context() FROM PUBLIC;

-- Writes an application event for whoever calls it, as the triggers write rows: it
-- neither fails nor waits.
CREATE OR REPLACE FUNCTION rowcast.outbox_broadcast(message text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms'
AS $rowcast$
DECLARE
    gate bigint;
BEGIN
    gate := pg_sequence_last_value('rowcast.gate');
    IF (pg_sequence_last_value('rowcast.outbox_id') < gate >> 1) IS NOT TRUE THEN
        PERFORM nextval('rowcast.refusals');
        RETURN;
    END IF;
    PERFORM rowcast.outbox_context();
    INSERT INTO rowcast.outbox (op, new) VALUES ('b', ARRAY[left(message, 262145)]);
    IF gate & 1 = 1 THEN
        NOTIFY rowcast;
    END IF;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        PERFORM nextval('rowcast.failures');
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
END
$rowcast$;
GRANT EXECUTE ON FUNCTION rowcast.outbox_broadcast(text) TO PUBLIC;
