-- The journal of instructions to wallet operators: what each packet event asked for, and what became
-- of it. An instruction is numbered by its event. It is written as sent before it is sent; done and
-- refused are final, and the trigger holds that. Rows are never removed.

CREATE SCHEMA wallet_journal;

CREATE TABLE wallet_journal.tracking (
    book text COLLATE "C" NOT NULL PRIMARY KEY,
    position bigint NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE wallet_journal.instruction (
    book text COLLATE "C" NOT NULL,
    position bigint NOT NULL CHECK (position > 0),
    operator text COLLATE "C" NOT NULL,
    wallet text COLLATE "C" NOT NULL,
    packet uuid NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('credit', 'debit')),
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL DEFAULT 'due'
        CHECK (state IN ('due', 'sent', 'done', 'refused', 'unknown')),
    code text COLLATE "C" CHECK ((code IS NOT NULL) = (state = 'refused')),
    attempts integer NOT NULL DEFAULT 0,  -- times that it was sent
    failures integer NOT NULL DEFAULT 0,  -- tries since that brought no answer
    ordered_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,          -- when it is tried next
    told_at bigint CHECK (told_at IS NULL OR state = 'refused'),  -- head when the ledger had heard
    PRIMARY KEY (book, position)
) WITH (fillfactor = 70);
CREATE INDEX instruction_by_wallet ON wallet_journal.instruction (book, wallet, position);
CREATE INDEX instruction_open ON wallet_journal.instruction (book, due_at, position)
    WHERE state IN ('due', 'sent', 'unknown');
CREATE INDEX instruction_untold ON wallet_journal.instruction (book, position)
    WHERE state = 'refused' AND told_at IS NULL;

CREATE INDEX instruction_disputed ON wallet_journal.instruction (book)
    WHERE state = 'refused' AND code <> 'wallet_closed';

CREATE FUNCTION wallet_journal.keep_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.book, NEW.position, NEW.operator, NEW.wallet, NEW.packet, NEW.kind, NEW.amount_minor,
            NEW.currency)
        IS DISTINCT FROM (OLD.book, OLD.position, OLD.operator, OLD.wallet, OLD.packet, OLD.kind,
            OLD.amount_minor, OLD.currency)
        OR OLD.state IN ('done', 'refused') AND (NEW.state, NEW.code)
            IS DISTINCT FROM (OLD.state, OLD.code)
    THEN
        RAISE EXCEPTION 'instruction %:% is final', OLD.book, OLD.position
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER keep_final BEFORE UPDATE ON wallet_journal.instruction
    FOR EACH ROW EXECUTE FUNCTION wallet_journal.keep_final();

GRANT USAGE ON SCHEMA wallet_journal TO tidebook_app;
GRANT SELECT, INSERT, UPDATE ON wallet_journal.tracking, wallet_journal.instruction TO tidebook_app;
