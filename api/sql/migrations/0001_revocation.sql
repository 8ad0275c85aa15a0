-- Sessions that were ended before their time, and callers that are suspended. Servers read the
-- whole table every few seconds, so a row stays only as long as it can matter.

CREATE TABLE revocation (
    subject text NOT NULL PRIMARY KEY, -- `session:<id in hex>`, or a scope such as `merchant:<id>`
    until timestamptz NOT NULL -- from then on the row says nothing: the session has ended anyway
);

GRANT SELECT, INSERT, UPDATE, DELETE ON revocation TO tidebook_app;
