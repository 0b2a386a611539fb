import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

/**
 * The fixed script of steps for pgjdbc: each step's result goes into one JSON object on stdout, an SQLException as its SQLSTATE and
 * message. Arguments: host, port, user, database; the password is in PGPASSWORD. The database is a copy of the shop, used by this run alone.
 */
public final class Steps {
  interface Step {
    Object run(Connection connection) throws Exception;
  }

  private static final Map<String, Object> RESULTS = new TreeMap<>();
  private static String[] to;

  public static void main(String[] arguments) throws Exception {
    to = arguments;
    for (String mode : List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
      step("values in mode " + mode, Map.of("preferQueryMode", mode), Steps::values);
      step("queries in mode " + mode, Map.of("preferQueryMode", mode), Steps::queries);
      step("errors in mode " + mode, Map.of("preferQueryMode", mode), Steps::errors);
    }
    for (String threshold : List.of("-1", "0", "1", "3")) {
      step("prepared at threshold " + threshold, Map.of("prepareThreshold", threshold), Steps::prepared);
    }
    step("batch", Map.of(), Steps::batch);
    step("batch rewritten", Map.of("reWriteBatchedInserts", "true"), Steps::batch);
    step("batch with an error", Map.of(), Steps::batchWithError);
    step("transactions", Map.of(), Steps::transactions);
    step("autosave", Map.of("autosave", "always"), Steps::autosave);
    step("cursor by fetch size", Map.of("defaultRowFetchSize", "7"), Steps::fetchSize);
    step("copy", Map.of(), Steps::copy);
    step("metadata", Map.of(), Steps::metadata);
    step("function call", Map.of(), Steps::functionCall);
    step("generated keys", Map.of(), Steps::generatedKeys);
    step("updatable result", Map.of(), Steps::updatable);
    step("notices", Map.of(), Steps::notices);
    step("notifications", Map.of(), Steps::notifications);
    step("timeout", Map.of(), Steps::timeout);
    step("large values", Map.of(), Steps::large);
    step("read only", Map.of("readOnly", "true", "readOnlyMode", "always"), Steps::readOnly);
    step("options", Map.of("options", "-c statement_timeout=12345 -c lock_timeout=54321", "ApplicationName", "jdbc steps"), Steps::options);
    step("wrong database", Map.of("wrong", "database"), connection -> "connected");
    System.out.println(json(RESULTS));
  }

  private static void step(String name, Map<String, String> extra, Step step) {
    Properties properties = new Properties();
    properties.put("user", to[2]);
    properties.put("password", System.getenv("PGPASSWORD"));
    properties.putAll(extra);
    boolean isWrong = properties.remove("wrong") != null;
    String address = "jdbc:postgresql://" + to[0] + ":" + to[1] + "/" + to[3] + (isWrong ? "_absent" : "");
    Object result;
    try (Connection connection = DriverManager.getConnection(address, properties)) {
      result = step.run(connection);
    } catch (SQLException error) {
      result = isWrong ? "refused" : failure(error); // a gate says it in words of its own
    } catch (Exception error) {
      result = "BROKEN " + error;
    }
    RESULTS.put(name, result);
  }

  private static Object values(Connection c) throws Exception {
    String query = "SELECT ?::int2, ?::int4, ?::int8, ?::numeric, ?::float8, ?::text, ?::bytea, ?::bool, ?::date, ?::timestamptz, "
        + "?::uuid, ?::int4[], ?::text[], ?::jsonb, ?::text, ?::int4";
    List<Object> seen = new ArrayList<>();
    try (PreparedStatement s = c.prepareStatement(query)) {
      for (int round = 0; round < 7; round++) {
        s.setShort(1, (short) -7);
        s.setInt(2, Integer.MAX_VALUE - round);
        s.setLong(3, Long.MIN_VALUE);
        s.setBigDecimal(4, new BigDecimal("12345678901234567890.0001"));
        s.setDouble(5, 0.1);
        s.setString(6, "ž'\\ \n 🐘");
        s.setBytes(7, new byte[] {0, 1, (byte) 0xff});
        s.setBoolean(8, true);
        s.setObject(9, LocalDate.of(2026, 2, 28));
        s.setObject(10, OffsetDateTime.of(2026, 11, 25, 1, 2, 3, 4000, ZoneOffset.UTC));
        s.setObject(11, new UUID(1, 2));
        s.setArray(12, c.createArrayOf("int4", new Object[] {1, null, 3}));
        s.setArray(13, c.createArrayOf("text", new Object[] {"a,b", "q\"", ""}));
        s.setString(14, "{\"a\": [1, 2]}");
        s.setNull(15, Types.VARCHAR);
        s.setNull(16, Types.INTEGER);
        seen.add(rows(s.executeQuery()));
      }
    }
    return seen;
  }

  private static Object queries(Connection c) throws Exception {
    List<Object> seen = new ArrayList<>();
    try (Statement s = c.createStatement()) {
      seen.add(rows(s.executeQuery("SELECT id, name, tags, settings FROM customers ORDER BY id LIMIT 5")));
      seen.add(s.executeUpdate("UPDATE accounts SET balance = balance + 1 WHERE id <= 10"));
      boolean hasRows = s.execute("SELECT 1; UPDATE accounts SET balance = balance - 1 WHERE id <= 10; SELECT 'two', 2");
      while (hasRows || s.getUpdateCount() >= 0) {
        seen.add(hasRows ? rows(s.getResultSet()) : s.getUpdateCount());
        hasRows = s.getMoreResults();
      }
      seen.add(rows(s.executeQuery("SELECT * FROM prod.settings WHERE false")));
      s.execute("");
    }
    try (PreparedStatement s = c.prepareStatement("SELECT id, status, total_with_tax FROM orders WHERE customer_id = ? ORDER BY id")) {
      for (int n = 1; n < 12; n++) {
        s.setInt(1, n);
        seen.add(rows(s.executeQuery()));
      }
      ResultSetMetaData meta = s.getMetaData();
      for (int n = 1; n <= meta.getColumnCount(); n++) {
        seen.add(List.of(meta.getColumnLabel(n), meta.getColumnTypeName(n), meta.getPrecision(n), meta.isNullable(n)));
      }
      seen.add(s.getParameterMetaData().getParameterTypeName(1));
    }
    return seen;
  }

  private static Object errors(Connection c) throws Exception {
    List<Object> seen = new ArrayList<>();
    String[] bad = {
      "SELEC 1", "SELECT nothing FROM customers", "SELECT 1/0", "INSERT INTO accounts (id, owner) VALUES (1, 'x')",
      "UPDATE orders SET total = -1 WHERE id = 1", "SELECT * FROM absent", "SELECT 'x'::int",
    };
    for (String query : bad) {
      try (PreparedStatement s = c.prepareStatement(query)) {
        s.execute();
        seen.add("no error");
      } catch (SQLException error) {
        seen.add(failure(error));
      }
      try (Statement s = c.createStatement()) {
        seen.add(rows(s.executeQuery("SELECT 'alive'")));
      }
    }
    return seen;
  }

  private static Object prepared(Connection c) throws Exception {
    List<Object> seen = new ArrayList<>();
    try (PreparedStatement s = c.prepareStatement("SELECT name FROM customers WHERE id = ?")) {
      for (int n = 1; n <= 10; n++) {
        s.setInt(1, n);
        seen.add(rows(s.executeQuery()));
      }
    }
    try (Statement s = c.createStatement()) {
      s.execute("DEALLOCATE ALL");
    }
    try (PreparedStatement s = c.prepareStatement("SELECT name FROM customers WHERE id = ?")) {
      s.setInt(1, 3);
      seen.add(rows(s.executeQuery()));
    } catch (SQLException error) {
      seen.add(failure(error));
    }
    return seen;
  }

  private static Object batch(Connection c) throws Exception {
    c.setAutoCommit(false);
    int[] counts;
    try (PreparedStatement s = c.prepareStatement("INSERT INTO audit_trail (what) VALUES (?)")) {
      for (int n = 0; n < 700; n++) {
        s.setString(1, "row " + n);
        s.addBatch();
      }
      counts = s.executeBatch();
    }
    List<Object> seen = new ArrayList<>(List.of(counts.length));
    try (Statement s = c.createStatement()) {
      seen.add(rows(s.executeQuery("SELECT count(*), min(what), max(what) FROM audit_trail")));
      s.addBatch("UPDATE accounts SET balance = 1 WHERE id = 1");
      s.addBatch("DELETE FROM accounts WHERE id IN (2, 3)");
      seen.add(Arrays.toString(s.executeBatch()));
    }
    c.rollback();
    return seen;
  }

  private static Object batchWithError(Connection c) throws Exception {
    List<Object> seen = new ArrayList<>();
    c.setAutoCommit(false);
    try (PreparedStatement s = c.prepareStatement("INSERT INTO accounts (id, owner) VALUES (?, 'x')")) {
      for (int n : new int[] {9001, 1, 9002}) {
        s.setInt(1, n);
        s.addBatch();
      }
      s.executeBatch();
      seen.add("no error");
    } catch (SQLException error) {
      seen.add(failure(error.getNextException()));
    }
    c.rollback();
    try (Statement s = c.createStatement()) {
      seen.add(rows(s.executeQuery("SELECT count(*) FROM accounts")));
    }
    return seen;
  }

  private static Object transactions(Connection c) throws Exception {
    List<Object> seen = new ArrayList<>();
    c.setAutoCommit(false);
    c.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
    try (Statement s = c.createStatement()) {
      s.executeUpdate("UPDATE accounts SET balance = 1 WHERE id = 1");
      Savepoint savepoint = c.setSavepoint("here");
      s.executeUpdate("UPDATE accounts SET balance = 2 WHERE id = 1");
      try {
        s.execute("SELECT 1/0");
      } catch (SQLException error) {
        seen.add(failure(error));
      }
      try {
        s.execute("SELECT 1");
      } catch (SQLException error) {
        seen.add(failure(error));
      }
      c.rollback(savepoint);
      seen.add(rows(s.executeQuery("SELECT balance, current_setting('transaction_isolation') FROM accounts WHERE id = 1")));
      c.rollback();
      seen.add(rows(s.executeQuery("SELECT balance FROM accounts WHERE id = 1")));
      c.commit();
    }
    return seen;
  }

  private static Object autosave(Connection c) throws Exception {
    List<Object> seen = new ArrayList<>();
    c.setAutoCommit(false);
    try (Statement s = c.createStatement()) {
      s.executeUpdate("UPDATE accounts SET balance = 5 WHERE id = 5");
      try {
        s.execute("SELECT 1/0");
      } catch (SQLException error) {
        seen.add(failure(error));
      }
      seen.add(rows(s.executeQuery("SELECT balance FROM accounts WHERE id = 5")));
    }
    c.rollback();
    return seen;
  }

  private static Object fetchSize(Connection c) throws Exception {
    c.setAutoCommit(false);
    List<Object> seen = new ArrayList<>();
    for (int size : new int[] {0, 1, 100, 5000}) {
      try (PreparedStatement s = c.prepareStatement("SELECT id, balance FROM accounts WHERE id > ? ORDER BY id LIMIT 1000")) {
        s.setFetchSize(size);
        s.setInt(1, 10);
        try (ResultSet r = s.executeQuery()) {
          long sum = 0;
          int count = 0;
          while (r.next()) {
            sum += r.getLong(1);
            count++;
          }
          seen.add(List.of(count, sum));
        }
        s.setMaxRows(3);
        seen.add(rows(s.executeQuery()));
      }
    }
    c.commit();
    return seen;
  }

  private static Object copy(Connection c) throws Exception {
    List<Object> seen = new ArrayList<>();
    CopyManager copies = c.unwrap(PGConnection.class).getCopyAPI();
    StringBuilder lines = new StringBuilder();
    for (int n = 0; n < 5000; n++) {
      lines.append("copied ").append(n).append('\n');
    }
    byte[] data = lines.toString().getBytes(StandardCharsets.UTF_8);
    seen.add(copies.copyIn("COPY audit_trail (what) FROM STDIN", new ByteArrayInputStream(data)));
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    seen.add(copies.copyOut("COPY (SELECT what FROM audit_trail ORDER BY id) TO STDOUT (FORMAT csv)", out));
    seen.add(Arrays.equals(out.toByteArray(), data));
    try {
      copies.copyIn("COPY accounts FROM STDIN", new ByteArrayInputStream("bad\tline\n".getBytes(StandardCharsets.UTF_8)));
    } catch (SQLException error) {
      seen.add(failure(error));
    }
    var half = copies.copyIn("COPY audit_trail (what) FROM STDIN");
    half.writeToCopy(data, 0, 10);
    half.cancelCopy();
    try (Statement s = c.createStatement()) {
      seen.add(rows(s.executeQuery("SELECT count(*) FROM audit_trail")));
      seen.add(s.executeUpdate("DELETE FROM audit_trail"));
    }
    return seen;
  }

  private static Object metadata(Connection c) throws Exception {
    Map<String, Object> seen = new TreeMap<>();
    DatabaseMetaData meta = c.getMetaData();
    seen.put("tables", rows(meta.getTables(null, "public", "%", null)));
    seen.put("columns", rows(meta.getColumns(null, null, "customers", "%")));
    seen.put("keys", rows(meta.getPrimaryKeys(null, "public", "orders")));
    seen.put("imported", rows(meta.getImportedKeys(null, "public", "orders")));
    seen.put("exported", rows(meta.getExportedKeys(null, "public", "customers")));
    seen.put("indexes", rows(meta.getIndexInfo(null, "public", "orders", false, true)));
    seen.put("functions", rows(meta.getFunctions(null, "public", "%")));
    seen.put("function columns", rows(meta.getFunctionColumns(null, "public", "discount", "%")));
    seen.put("schemas", rows(meta.getSchemas()));
    seen.put("privileges", rows(meta.getTablePrivileges(null, "public", "accounts")));
    seen.put("types", rows(meta.getUDTs(null, "public", "%", null)));
    seen.put("product", meta.getDatabaseProductVersion());
    return seen;
  }

  private static Object functionCall(Connection c) throws Exception {
    try (CallableStatement s = c.prepareCall("{? = call discount(?, ?)}")) {
      s.registerOutParameter(1, Types.NUMERIC);
      s.setBigDecimal(2, new BigDecimal("100"));
      s.setInt(3, 25);
      s.execute();
      return s.getBigDecimal(1).toPlainString();
    }
  }

  private static Object generatedKeys(Connection c) throws Exception {
    String insert = "INSERT INTO customers (name, email, password) VALUES (?, ?, ?)";
    c.setAutoCommit(false);
    try (PreparedStatement s = c.prepareStatement(insert, new String[] {"id", "created_at"})) {
      s.setString(1, "Key");
      s.setString(2, "key@shop.example");
      s.setString(3, "p");
      s.executeUpdate();
      return rows(s.getGeneratedKeys());
    } finally {
      c.rollback();
    }
  }

  private static Object updatable(Connection c) throws Exception {
    c.setAutoCommit(false);
    try (Statement s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
      ResultSet r = s.executeQuery("SELECT id, balance FROM accounts WHERE id <= 3 ORDER BY id");
      r.absolute(2);
      r.updateLong("balance", 77);
      r.updateRow();
      return rows(s.executeQuery("SELECT id, balance FROM accounts WHERE id <= 3 ORDER BY id"));
    } finally {
      c.rollback();
    }
  }

  private static Object notices(Connection c) throws Exception {
    try (Statement s = c.createStatement()) {
      s.execute("SELECT warn('jdbc')");
      return s.getWarnings().getMessage();
    }
  }

  private static Object notifications(Connection c) throws Exception {
    try (Statement s = c.createStatement()) {
      s.execute("LISTEN jdbc");
      s.execute("NOTIFY jdbc, 'payload'");
      PGNotification[] heard = c.unwrap(PGConnection.class).getNotifications(5000);
      return List.of(heard.length, heard[0].getName(), heard[0].getParameter());
    }
  }

  private static Object timeout(Connection c) throws Exception {
    List<Object> seen = new ArrayList<>();
    try (Statement s = c.createStatement()) {
      s.setQueryTimeout(1);
      try {
        s.execute("SELECT pg_sleep(60)");
      } catch (SQLException error) {
        seen.add(failure(error));
      }
      seen.add(rows(s.executeQuery("SELECT 'alive'")));
    }
    return seen;
  }

  private static Object large(Connection c) throws Exception {
    byte[] blob = new byte[3_000_000];
    Arrays.fill(blob, (byte) 'x');
    try (PreparedStatement s = c.prepareStatement("SELECT ?::bytea, length(?), repeat('y', 2000000)")) {
      s.setBytes(1, blob);
      s.setString(2, "ž".repeat(1_000_000));
      ResultSet r = s.executeQuery();
      r.next();
      return List.of(Arrays.equals(r.getBytes(1), blob), r.getInt(2), r.getString(3).length());
    }
  }

  private static Object readOnly(Connection c) throws Exception {
    try (Statement s = c.createStatement()) {
      s.execute("DELETE FROM accounts");
      return "deleted";
    }
  }

  private static Object options(Connection c) throws Exception {
    try (Statement s = c.createStatement()) {
      return rows(s.executeQuery("SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('application_name')"));
    }
  }

  private static Object failure(SQLException error) {
    if (error instanceof PSQLException postgres && postgres.getServerErrorMessage() != null) {
      ServerErrorMessage message = postgres.getServerErrorMessage();
      if ("42601".equals(message.getSQLState())) {
        return List.of("42601"); // a gate finds syntax errors itself and says so in its own words
      }
      return Arrays.asList(message.getSQLState(), message.getMessage(), message.getDetail(), message.getConstraint(), message.getPosition());
    }
    return Arrays.asList(error.getSQLState(), error.getMessage());
  }

  private static List<Object> rows(ResultSet result) throws SQLException {
    List<Object> rows = new ArrayList<>();
    int width = result.getMetaData().getColumnCount();
    while (result.next()) {
      List<Object> row = new ArrayList<>();
      for (int n = 1; n <= width; n++) {
        Object value = result.getObject(n);
        if (value instanceof byte[] bytes) {
          value = "bytes " + Arrays.toString(bytes);
        } else if (value instanceof Array array) {
          value = Arrays.toString((Object[]) array.getArray());
        }
        row.add(value == null ? null : String.valueOf(value));
      }
      rows.add(row);
    }
    return rows;
  }

  private static String json(Object value) {
    StringBuilder out = new StringBuilder();
    write(value, out);
    return out.toString();
  }

  private static void write(Object value, StringBuilder out) {
    if (value == null || value instanceof Number || value instanceof Boolean) {
      out.append(value);
    } else if (value instanceof Map<?, ?> map) {
      String comma = "{";
      for (Map.Entry<?, ?> entry : map.entrySet()) {
        out.append(comma);
        write(entry.getKey(), out);
        out.append(": ");
        write(entry.getValue(), out);
        comma = ",\n";
      }
      out.append(map.isEmpty() ? "{}" : "}");
    } else if (value instanceof List<?> list) {
      String comma = "[";
      for (Object item : list) {
        out.append(comma);
        write(item, out);
        comma = ", ";
      }
      out.append(list.isEmpty() ? "[]" : "]");
    } else {
      out.append('"');
      for (char letter : value.toString().toCharArray()) {
        if (letter == '"' || letter == '\\') {
          out.append('\\').append(letter);
        } else if (letter < ' ') {
          out.append(String.format("\\u%04x", (int) letter));
        } else {
          out.append(letter);
        }
      }
      out.append('"');
    }
  }
}
