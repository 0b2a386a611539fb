-- The gate's roles, with the passwords that `setup` made.
\set readonly_password `cat /run/initial/readonly`
\set readwrite_password `cat /run/initial/readwrite`
CREATE ROLE readonly LOGIN PASSWORD :'readonly_password';
CREATE ROLE readwrite LOGIN PASSWORD :'readwrite_password';
