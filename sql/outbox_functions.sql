-- What functions.sql says, where triggers capture what is changed: the same
-- functions, which write no log.
--
-- Both run as who calls them. Where nothing can be written (a standby, a read-only
-- transaction) they do nothing, rather than make the application's transaction
-- fail. What rowcast cannot take, it says in its own log.

-- What the transaction says of itself, a JSON object, for all that it changes from
-- here on: {{ context.user_id }} in a rule. The connection that a socket_id in it
-- names is not told. The triggers write it before what is changed, so it costs
-- nothing where nothing is.
CREATE OR REPLACE FUNCTION rowcast.context(context jsonb) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
    SET search_path = pg_catalog, pg_temp
AS $rowcast$
    SELECT set_config('rowcast.context', context::text, true) WHERE context IS NOT NULL
$rowcast$;

-- An event on a channel, without any table. [broadcast] in rowcast's configuration
-- says which ones are sent.
CREATE OR REPLACE FUNCTION rowcast.broadcast(channel text, event text, data jsonb DEFAULT '{}')
    RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
    SET search_path = pg_catalog, pg_temp
AS $rowcast$
    SELECT rowcast.outbox_broadcast(
        jsonb_build_object('channel', channel, 'event', event, 'data', data)::text)
    WHERE current_setting('transaction_read_only') = 'off'
$rowcast$;

GRANT USAGE ON SCHEMA rowcast TO PUBLIC;
GRANT EXECUTE ON FUNCTION rowcast.context(jsonb), rowcast.broadcast(text, text, jsonb) TO PUBLIC;
