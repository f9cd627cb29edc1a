<?php
// A worker in PHP: wsraw run --workers 'php examples/workers/php/worker.php:2'
// The functions at the end are yours. The class speaks the protocol (docs/worker-protocol.md).
declare(strict_types=1);
ini_set('msgpack.php_only', '0'); // MessagePack as others know it
const SEND_AFTER = 0.001; // s; an ack that waits behind a slow handler makes us look stuck (rule 3)
const SILENCE = 1000; // ms until we probe again: ours may wait in libzmq until something follows it
const LEAVE_WITHIN = 4.0; // s that the gateway has to drain us after a SIGTERM
const END_WITHIN = 7.0; // s; if the gateway is gone too, a send waits for ever (rule 19)

final class Connection {
    public array $inf = [], $about = [], $end = []; // the last in onClose: code, reason, cause
    public mixed $state = null; // any MessagePack value; it moves along with the connection
    public function __construct(public readonly int $id) {}
}

final class Worker {
    public array $event = []; // commands of the handler that runs
    private array $connections = [], $ids = [], $out = []; // for open(); records for the next batch
    private float $oldest = 0.0, $leaveAt = INF, $endAt = INF; // since when the first of $out waits
    private int $session = 0, $during = 0; // the latter: the connection of the event

    public function __construct(private ZMQSocket $socket, private string $token) {
        $endpoint = getenv('WSRAW_ENDPOINT') ?: throw new Error('WSRAW_ENDPOINT is not set');
        $options = [ZMQ::SOCKOPT_IMMEDIATE => 1, ZMQ::SOCKOPT_PROBE_ROUTER => 1,
            ZMQ::SOCKOPT_LINGER => 2000, ZMQ::SOCKOPT_SNDTIMEO => SILENCE, ZMQ::SOCKOPT_MAXMSGSIZE => 64 << 20, ZMQ::SOCKOPT_RCVHWM => 100, ZMQ::SOCKOPT_SNDHWM => 100];
        $tcp = [ZMQ::SOCKOPT_HEARTBEAT_IVL => 2000, ZMQ::SOCKOPT_HEARTBEAT_TIMEOUT => 6000, ZMQ::SOCKOPT_CONNECT_TIMEOUT => 5000];
        $options += str_starts_with($endpoint, 'tcp:') ? $tcp : [];
        foreach (['SERVERKEY', 'PUBLICKEY', 'SECRETKEY'] as $key) // for a gateway on another machine
            if ($value = getenv("WSRAW_CURVE_$key")) $options[constant("ZMQ::SOCKOPT_CURVE_$key")] = $value;
        array_map('putenv', ['WSRAW_TOKEN', 'WSRAW_CURVE_SECRETKEY']); // not for what a handler may start
        array_walk($options, fn (int|string $value, int $name) => $socket->setSockOpt($name, $value));
        $socket->connect($endpoint);
    }

    public function run(): void {
        pcntl_signal(SIGINT, fn () => $this->leaveAt = 0.0);
        pcntl_signal(SIGTERM, function () {
            $this->leaveAt = min($this->leaveAt, microtime(true) + ($this->session ? LEAVE_WITHIN : 0));
            $this->endAt = min($this->endAt, microtime(true) + END_WITHIN);
        });
        ($poll = new ZMQPoll())->add($this->socket, ZMQ::POLL_IN);
        for ($readable = $writable = []; microtime(true) < $this->leaveAt; pcntl_signal_dispatch()) {
            try {
                if (!$poll->poll($readable, $writable, SILENCE)) $this->socket->send('', ZMQ::MODE_DONTWAIT);
                elseif ($message = $this->socket->recv()) $this->receive(msgpack_unpack($message)); // else a probe
            } catch (ZMQPollException) {} // a signal
        }
        $this->out = [['bye']];
        $this->session && $this->flush();
    }

    private function flush(): void {
        $batch = msgpack_pack([$this->session, ...$this->out]);
        for ($sent = !$this->out; !$sent && microtime(true) < $this->endAt; pcntl_signal_dispatch()) {
            try {
                $sent = $this->socket->send($batch);
            } catch (ZMQSocketException $error) {
                if ($error->getCode() !== PCNTL_EINTR) throw $error;
            }
        }
        $this->out = [];
    }

    private function receive(array $batch): void {
        $number = array_shift($batch);
        foreach ($batch as $fields) {
            $tag = array_shift($fields);
            if ($tag === 'who') { // from one that does not know us: what we had is over (rule 2)
                [$this->session, $this->ids] = [0, []];
                $this->out = [['hello', 1, getenv('WSRAW_POOL'), getenv('WSRAW_INSTANCE'), 'php/' . PHP_VERSION,
                    $this->token, 1000, 1, array_keys($this->connections)]];
                $this->flush();
            } elseif ($tag === 'welcome') {
                [$this->session, $this->ids] = [$fields[1], range($fields[3], $fields[4])];
            } elseif ($tag === 'refused') {
                fwrite(STDERR, "error: refused: $fields[2]\n");
                $fields[0] || exit(4); // batch 0: we are shut out; trying again is no use
            } elseif ($number === $this->session && $tag === 'detach') {
                unset($this->connections[$fields[0]]);
            } elseif ($number === $this->session) {
                match ($tag) {
                    'attach' => $this->attach(...$fields),
                    'answer' => array_push($this->ids, ...range(...$fields[1])),
                    'drain' => $this->leaveAt = 0.0,
                    'on_connect', 'on_message', 'on_error', 'on_close' => $this->handle($tag, ...$fields),
                    default => null, // of a later version
                };
            }
        }
        $this->flush();
    }

    private function attach(int $id, ?array $inf, string $state, int $version = 0, array $about = []): void {
        $con = $this->connections[$id] ??= new Connection($id);
        [$con->inf, $con->about] = [$inf ?? $con->inf, $about ?: $con->about]; // nil: as we know it
        $con->state = $state === '' ? null : msgpack_unpack($state);
    }

    private function handle(string $tag, int $seq, int $id, mixed ...$rest): void {
        $this->out && microtime(true) - $this->oldest > SEND_AFTER && $this->flush();
        $con = $this->connections[$id] ??= new Connection($id);
        if ($tag === 'on_connect') $con->about = $rest[3] ?? [];
        [$before, $this->during, $this->event] = [$con->state, $id, []];
        try {
            match ($tag) {
                'on_connect' => onConnect($con->inf = $rest[0], $con),
                'on_message' => onMessage(['data' => $rest[0], 'type' => $rest[1], 'final' => $rest[2] ?? true], $con),
                'on_error' => onError($rest[0], $con),
                'on_close' => [$con->end = $rest, onClose($con)],
            };
            if ($con->state !== $before) $this->event[] = ['state', $id, msgpack_pack($con->state)];
        } catch (Throwable $error) {
            fwrite(STDERR, "error: $tag raised: $error\n");
            $con->state = $before;
            $isAsked = $tag === 'on_connect' && !empty($rest[1]); // only a client that a handler has accepted may come in
            $this->event = [$isAsked ? ['reject', $id, 500] : ['close', $id, 1011]];
        }
        if ($tag === 'on_close') unset($this->connections[$id]);
        $this->oldest = $this->out ? $this->oldest : microtime(true);
        array_push($this->out, ...$this->event, ...[['ack', $seq, $seq]]); // all or nothing (rule 1)
    }

    public function open(mixed ...$request): Connection {
        $con = new Connection(array_pop($this->ids));
        if (count($this->ids) === 100) $this->event[] = ['query', 0, 'ids'];
        $this->event[] = ['open', $con->id, ...$request, ['during' => $this->during]];
        $con->about = ['target' => $request[0]];
        return $this->connections[$con->id] = $con;
    }
}

function sendMessage(array|string $msg, Connection $con): void {
    $msg = is_string($msg) ? ['data' => $msg] : $msg;
    $type = ($msg['type'] ?? 'text') === 'raw' ? 'binary' : $msg['type'] ?? 'text';
    $GLOBALS['worker']->event[] = ['send', $con->id, $msg['data'], $type, $msg['final'] ?? true];
}
function openClientConnection($target, $protocol = 'raw', $url = '/', $host = '', $orig = ''): Connection {
    return $GLOBALS['worker']->open($target, $protocol, $url, $host, $orig);
}

function onConnect(array $inf, Connection $con): void {
    if (isset($con->about['target'])) sendMessage('hi', $con);
}
function onMessage(array $msg, Connection $con): void {
    if (isset($con->about['target'])) return; // ours; two that answer each other never end
    $con->state += 1;
    [$word, $rest] = explode(' ', $msg['data'], 2) + ['', ''];
    if ($word === 'slow' && ctype_digit($rest)) usleep(1000 * (int) $rest);
    $msg['data'] = match (true) {
        $word === 'upper' => strtoupper($rest),
        $word === 'open' => 'opened ' . openClientConnection($rest, 'websocket')->id,
        $msg['data'] === 'count' => (string) $con->state,
        default => $msg['data'],
    };
    sendMessage($msg, $con);
}

function onError(string $error_message, Connection $con): void {}
function onClose(Connection $con): void {}
($worker = new Worker(new ZMQSocket(new ZMQContext(), ZMQ::SOCKET_DEALER), getenv('WSRAW_TOKEN') ?: ''))->run();
