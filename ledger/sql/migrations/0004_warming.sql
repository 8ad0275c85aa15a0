-- Pages of indexes can be read into the cache before a rush: `ledger.warming`. Only some roles may
-- create this extension, and not every server has it; without it the first of a rush wait for disks.
DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS pg_prewarm SCHEMA tidebook;
EXCEPTION WHEN insufficient_privilege OR undefined_file OR feature_not_supported THEN
    NULL;
END
$$;
