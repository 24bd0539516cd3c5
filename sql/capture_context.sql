        context := current_setting('rowcast.context', true);
        IF context <> '' AND context IS DISTINCT FROM current_setting('rowcast.told', true) THEN
            INSERT INTO rowcast.outbox (op, new)
            SELECT 'c', ARRAY[left(context, 4097)]
            WHERE {{changed}} AND pg_sequence_last_value('rowcast.outbox_id')
                                  < pg_sequence_last_value('rowcast.gate') >> 1;
            IF FOUND THEN
                PERFORM set_config('rowcast.told', context, true);
            END IF;
        END IF;
