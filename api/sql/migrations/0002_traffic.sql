-- What became of the calls for a campaign's coupons, counted by when they came. Counts only: who
-- called is not kept. Nothing is decided by these rows, and a server that ends badly loses its
-- last second of them.

CREATE TABLE traffic (
    campaign uuid NOT NULL,
    at timestamptz NOT NULL, -- the beginning of the span in which the calls came
    span_s smallint NOT NULL, -- its length: a second in a rush, a minute otherwise
    code text NOT NULL, -- what they were answered with
    calls bigint NOT NULL,
    seconds double precision NOT NULL, -- until the answer, all calls together
    latency bigint[] NOT NULL, -- calls by latency; the bounds are in the program
    PRIMARY KEY (campaign, at, span_s, code)
);

CREATE TABLE traffic_edge (
    campaign uuid NOT NULL PRIMARY KEY,
    first_call timestamptz NOT NULL,
    last_granted timestamptz, -- when the last call came that got a coupon
    first_sold_out timestamptz -- when the first call came that found none left
);

CREATE FUNCTION plus(a bigint[], b bigint[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT array_agg(x + y ORDER BY i) FROM unnest(a, b) WITH ORDINALITY AS u (x, y, i));

GRANT SELECT, INSERT, UPDATE ON traffic, traffic_edge TO tidebook_app;
