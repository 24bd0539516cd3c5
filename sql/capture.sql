
DECLARE
    -- How many rows the outbox has room for, doubled, and one more while the reader
    -- is to be woken: read at once, since each reading costs.
    room bigint;
    written bigint;
BEGIN
    -- What goes wrong here is rowcast's to make good, by a resync; never the
    -- application's, whose statement this is part of.
    BEGIN
        IF current_setting('rowcast.context', true)
            <> coalesce(current_setting('rowcast.told', true), '')
        THEN
            IF {{changed}} THEN
                PERFORM rowcast.outbox_context();
            END IF;
        END IF;
        room := pg_sequence_last_value('rowcast.gate')
            - 2 * pg_sequence_last_value('rowcast.outbox_id');
        -- Defaults would be an evaluation of their own.
        INSERT INTO rowcast.outbox (xid, id, at, shape, op, old, new)
        SELECT pg_current_xact_id(), nextval('rowcast.outbox_id'), statement_timestamp(),
            {{shape}}, {{rows}}
        LIMIT greatest(room >> 1, 0);
        GET DIAGNOSTICS written = ROW_COUNT;
        IF (written < room >> 1) IS NOT TRUE THEN
            PERFORM nextval('rowcast.refusals');
        ELSIF written > 0 AND room & 1 = 1 THEN
            NOTIFY rowcast;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            PERFORM nextval('rowcast.failures');
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END;
    RETURN NULL;
END
