# A worker in Ruby: wsraw run --workers 'ruby examples/workers/ruby/worker.rb:2'
# The handlers at the end are yours. The rest speaks the protocol (docs/worker-protocol.md).
require 'ffi-rzmq'
require 'msgpack'

# What handlers know a client by. Its state is any MessagePack value; it moves along with it.
class Connection
  attr_accessor :id, :inf, :about, :state, :end

  def initialize(id, worker)
    @id, @worker, @inf, @about = id, worker, {}, {}
  end

  def send(data, type = 'text', final: true)
    @worker.command('send', id, data.b, type == 'raw' ? 'binary' : type, final)
  end
end

# Derive yours from it, with handlers: on_connect, on_message, on_error, on_close.
class Worker
  SEND_AFTER = 0.001 # s; an ack that waits behind a slow handler makes us look stuck (rule 3)
  LEAVE_WITHIN = 4.0 # s that the gateway has to drain us after a SIGTERM
  END_WITHIN = 7.0 # s; if the gateway is gone too, a send waits for ever (rule 19)
  OPTIONS = { ZMQ::IMMEDIATE => 1, ZMQ::PROBE_ROUTER => 1, ZMQ::LINGER => 2000, ZMQ::RCVTIMEO => 1000,
              ZMQ::MAXMSGSIZE => 64 << 20, ZMQ::RCVHWM => 100, ZMQ::SNDHWM => 100 }.freeze
  TCP = { 75 => 2000, 77 => 6000, 79 => 5000 }.freeze # ms: HEARTBEAT_IVL, HEARTBEAT_TIMEOUT, CONNECT_TIMEOUT

  def initialize(env = ENV)
    @endpoint = env.fetch('WSRAW_ENDPOINT')
    @about = [env.fetch('WSRAW_POOL', 'default'), env['WSRAW_INSTANCE'] || Random.new_seed.to_s(16),
              "ruby/#{RUBY_VERSION}", env.delete('WSRAW_TOKEN') || '', 1000, 1]
    @keys = %w[CURVE_SERVERKEY CURVE_PUBLICKEY CURVE_SECRETKEY] # for a gateway on another machine
            .to_h { |name| [ZMQ.const_get(name), env.delete("WSRAW_#{name}")] }.compact
    @connections = Hash.new { |all, id| all[id] = Connection.new(id, self) }
    @session, @leave_at, @ids, @out = 0, Float::INFINITY, [], [] # for open; for the next batch
  end

  def run
    @context = ZMQ::Context.new # kept: it must not be collected
    @socket = @context.socket(ZMQ::DEALER)
    OPTIONS.merge(@keys).each { |name, value| @socket.setsockopt(name, value) }
    unknown = @endpoint.start_with?('tcp:') ? TCP : {} # to ffi-rzmq
    unknown.each { |name, value| LibZMQ.zmq_setsockopt(@socket.socket, name, [value].pack('i'), 4) }
    @socket.connect(@endpoint)
    trap('INT') { @leave_at = 0 }
    trap('TERM') do
      @leave_at = [@leave_at, now + (@session.zero? ? 0 : LEAVE_WITHIN)].min
      Thread.new { sleep(END_WITHIN) && exit!(1) }
    end
    while now < @leave_at
      if @socket.recv_string(message = +'') < 0 # silence: our probe may wait in libzmq until something follows it
        @socket.send_string('', ZMQ::DONTWAIT)
      elsif !message.empty? # else a probe
        receive(*MessagePack.unpack(message))
      end
    end
    send_batch(@session, ['bye']) unless @session.zero?
    @socket.close
    @context.terminate # when that has left
  end

  # For handlers: what they ask for goes out with the ack of their event.
  def command(*record) = @event << record

  def open(target, protocol = 'raw', url = '/')
    con = @connections[@ids.pop]
    command('query', 0, 'ids') if @ids.size == 100
    command('open', con.id, target, protocol, url, '', '', { during: @during })
    con.tap { con.about = { 'target' => target } }
  end

  private

  def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

  def send_batch(*batch) = @socket.send_string(batch.to_msgpack)

  def flush
    send_batch(@session, *@out) if @out.any?
    @out = []
  end

  def receive(number, *records)
    records.each do |tag, *fields|
      if tag == 'who' # from one that does not know us: what we had is over (rule 2)
        @session, @ids, @out = 0, [], []
        send_batch(0, ['hello', 1, *@about, @connections.keys])
      elsif tag == 'welcome'
        @session, @ids = fields[1], [*fields[3]..fields[4]]
      elsif tag == 'refused'
        warn "error: refused: #{fields[2]}"
        exit!(4) if fields[0].zero? # batch 0: we are shut out; trying again is no use
      elsif number == @session
        take(tag, fields)
      end
    end
    flush
  end

  def take(tag, fields)
    case tag
    when 'attach' then attach(*fields)
    when 'detach' then @connections.delete(fields[0])
    when 'answer' then @ids.concat([*fields[1][0]..fields[1][1]])
    when 'drain' then @leave_at = 0
    when 'on_connect', 'on_message', 'on_error', 'on_close' then handle(tag, *fields)
    end
  end

  def attach(id, inf, state, _version, about = {}, *)
    con = @connections[id]
    con.inf, con.about = inf, about if inf # nil: what we know already
    con.state = state.empty? ? nil : MessagePack.unpack(state)
  end

  def handle(tag, seq, id, first, *rest)
    flush if @out.any? && now - @oldest > SEND_AFTER
    con = @connections[id]
    before, @during, @event = con.state, id, []
    con.inf, con.about = first, rest[2] || {} if tag == 'on_connect'
    first = { data: first, type: rest[0], final: rest[1] != false } if tag == 'on_message'
    con.end = [first, *rest] if tag == 'on_close' # code, reason, cause
    begin
      public_send(tag, *(tag == 'on_close' ? [con] : [first, con])) if respond_to?(tag)
      command('state', id, con.state.to_msgpack) if con.state != before
    rescue StandardError => e
      warn "error: #{tag} raised: #{e.full_message(highlight: false)}"
      con.state = before
      asked = tag == 'on_connect' && rest[0] # only a client that a handler has accepted may come in
      @event = [asked ? ['reject', id, 500] : ['close', id, 1011]]
    end
    @connections.delete(id) if tag == 'on_close'
    @oldest = now if @out.empty?
    @out.push(*@event, ['ack', seq, seq]) # together, or not at all (rule 1)
  end
end

# What all the examples do.
class Common < Worker
  def on_connect(_inf, con) = (con.send('hi') if con.about['target'])

  def on_message(msg, con)
    return if con.about['target'] # we have opened it; two that answer each other never end
    con.state = con.state.to_i + 1
    word, rest = msg[:data].split(/ /, 2)
    answer = case rest && word
             when 'upper' then rest.upcase(:ascii)
             when 'open' then "opened #{open(rest.force_encoding('UTF-8'), 'websocket').id}"
             when 'slow' then sleep(rest.to_i / 1000.0) && nil
             else con.state.to_s if msg[:data] == 'count'
             end
    con.send(answer || msg[:data], msg[:type], final: msg[:final])
  end
end

Common.new.run
