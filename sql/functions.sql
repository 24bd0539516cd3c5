-- What an application says to rowcast within a transaction. rowcast hears it once
-- the transaction is committed; what is rolled back, to a savepoint too, is never
-- said.
--
-- `rowcast setup` installs this and `rowcast teardown` removes it; psql runs it too.
--
-- Both write to the log, as pg_logical_emit_message does for every
-- role, so EXECUTE for all gives nothing away: they run as who calls them, and read
-- nothing. Where nothing can be written (a standby, a read-only transaction) they
-- do nothing, rather than make the application's transaction fail. What rowcast
-- cannot take, it says in its own log.

CREATE SCHEMA IF NOT EXISTS rowcast;

-- What the transaction says of itself, a JSON object, for all that it changes from
-- here on: {{ context.user_id }} in a rule. The connection that a socket_id in it
-- names is not told.
CREATE OR REPLACE FUNCTION rowcast.context(context jsonb) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
    SET search_path = pg_catalog, pg_temp
AS $rowcast$
    SELECT pg_logical_emit_message(true, 'rowcast', convert_to(
        context::text,
        -- There the bytes are of no known encoding, and converting them may fail.
        CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END)),
        -- Postgres orders a message by its end, and a row by its start. Where this is
        -- the last of a savepoint, a row after it would come before it.
        pg_logical_emit_message(true, 'rowcast.end', '')
    WHERE context IS NOT NULL AND current_setting('transaction_read_only') = 'off'
$rowcast$;

-- An event on a channel, without any table. [broadcast] in rowcast's configuration
-- says which ones are sent.
CREATE OR REPLACE FUNCTION rowcast.broadcast(channel text, event text, data jsonb DEFAULT '{}')
    RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
    SET search_path = pg_catalog, pg_temp
AS $rowcast$
    SELECT pg_logical_emit_message(true, 'rowcast.broadcast', convert_to(
        jsonb_build_object('channel', channel, 'event', event, 'data', data)::text,
        CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END))
    WHERE current_setting('transaction_read_only') = 'off'
$rowcast$;

GRANT USAGE ON SCHEMA rowcast TO PUBLIC;
GRANT EXECUTE ON FUNCTION rowcast.context(jsonb), rowcast.broadcast(text, text, jsonb) TO PUBLIC;
