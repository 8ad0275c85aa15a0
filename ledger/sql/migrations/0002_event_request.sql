-- An event that is the record of its own request carries the request's id, so that a retry finds
-- it without a row of its own. Everything else keeps its reply in idempotency; a claim stored
-- before this has its reply there too. Null in every older event: nothing is rewritten.

ALTER TABLE event
    ADD COLUMN request uuid NULL;

CREATE UNIQUE INDEX event_request ON event (book, request) WHERE request IS NOT NULL;
