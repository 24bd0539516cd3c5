
DECLARE
    gate bigint;
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
        INSERT INTO rowcast.outbox (shape, op, old, new)
{{rows}}
        LIMIT (SELECT greatest(0,
            (pg_sequence_last_value('rowcast.gate') >> 1)
            - pg_sequence_last_value('rowcast.outbox_id')));
        gate := pg_sequence_last_value('rowcast.gate');
        IF (pg_sequence_last_value('rowcast.outbox_id') < gate >> 1) IS NOT TRUE THEN
            PERFORM nextval('rowcast.refusals');
        END IF;
        IF gate & 1 = 1 THEN
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
